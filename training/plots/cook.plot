# Cooking or baking with something missing.
cast: duo
lesson: [everyone can give a little|many small gifts make a big meal|food tastes best with friends|a mistake can turn into something good]

<duo> <oneday>, they wanted to make {dish.a}. "[I am hungry|This will be fun|I know how to do it]," said {hero}.
<duo> {Hero} wanted to make {dish.a} for {grown}. {Friend} wanted to help.
<duo-here> They got [very |]hungry. "Let us go home and make {dish.a}!" said {hero}. "[Yum|Yes|Good idea]!" said {friend}.

"We need {dish.one}, {dish.two} and {dish.three}," said {hero}. But there was no {dish.four}! +missing
They [put|mixed] {dish.one} and {dish.two} into a [big|blue|round] bowl. "[Where are the other things|What else do we need]?" asked {friend}. "We have no {dish.three}!" said {hero}. +missing3
They took {dish.one}, {dish.two} and {dish.three}. [Soon everything was messy|There was flour on the nose of {friend}|They made a big mess and laughed]. +mess

So they went to {wise.first}. "[Do you have some {dish.four}|Can you give us some {dish.four}]?" asked {friend}. "[Of course|I have plenty|Yes]," said {wise}. "[But I want to have a bite|Take as much as you need|Good luck]." @missing
They asked {friend2.intro}. {Friend2.he} had some {dish.four}. "[You can have it|Here you are|Take it all]," said {friend2}. "Thank you!" said {hero}. @missing
So {hero} ran to {wise.first} and asked for some {dish.three}. "[Here you are|Take this|Of course]," said {wise} <softly>. @missing3
{Friend} went to look {spot}. {Hero} asked {wise.first}. "I have some {dish.three} for you," said {wise}. @missing3
But {hero} put too much [salt|honey|water|pepper] in! "Oh no!" said {friend}. "[It will taste bad.|What shall we do now?]" @mess
Then {friend} dropped the spoon. [Splash|Plop]! Everything was on the floor. "[Oh no|I am so sorry]!" said {friend}. "[It is okay|We will start again]," said {hero}. @mess

--
They [stirred|mixed] and [sang|laughed]. Then they [waited|cleaned up while it was in the oven|set the table].
They worked together. {Hero} [stirred|cut|mixed] and {friend} [tasted|washed|poured]. [It smelled so good|Soon the whole house smelled good].
So they [tried again|added a bit of this and a bit of that|worked and worked]. [It began to smell good|It looked funny, but it smelled good].

At last, the {dish.bare} was ready. [It was hot|It was done|It looked great]. "[Careful, it is hot!|Who wants to try it?|Time to eat!]" said {hero}.
When the {dish.bare} was ready, {grown} came in. "[What smells so good|Did you make this|Is that for me]?" {grown.he} asked.

They all sat down and ate. [Yum|Mmm]! It was [the best {dish.bare} ever|so good|delicious].
{Friend} took a big bite. "[It is delicious|Yum|It is so good]!" {friend.he} said. They ate until [nothing was left|they were full].
They shared the {dish.bare} with [everyone|all their friends|{guide2.first}]. [Everyone was full and happy|Nothing was left].

?
<moral>
<moral>
<moral>
"[What shall we make tomorrow|Who will clean the kitchen]?" asked {friend}. They both laughed.
{Hero} was <happy>.
