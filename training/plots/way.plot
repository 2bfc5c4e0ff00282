# Lost in the woods and home again.
cast: any
lesson: [it is wise to stay close to those you love|it is good to ask for the way|home is the best place of all]

<home> <oneday>, {hero} followed {small.a} into the [woods|forest]. It went left. It went right. Soon {hero} did not know where {hero.he} was. @solo
<here> {Hero.he} [followed a butterfly|walked further and further|went down a new path]. Soon nothing looked the same. @solo
<duo-here> They [followed a path|ran after a butterfly|went further and further]. Soon they did not know where they were. @duo

"[Where am I|Which way is home|How do I get home]?" asked {hero}. {Hero.he} was lost! @solo
{Hero} [stopped and looked around|looked left and right]. Everything was strange. "I am lost," {hero.he} said. @solo
"[Are we lost|Do you know the way|Which way is home]?" asked {friend}. {Hero} did not know. @duo

It got [dark|darker and darker|cold]. {Hero} was [scared|<sad>|cold and hungry].
The trees were [tall|dark]. [An owl called|The wind blew|Something moved in the bushes]. {Hero} [shivered|was afraid|wanted to cry].
{Friend} began to cry. "[Don't cry|Hold on to me|I am with you]," said {hero}. "[We will find the way|We are together, and that is good]." @duo

--
[Then|Just then|Suddenly], {wise.first} came [by|down the path|closer]. "[Are you lost|Did you lose your way|It is late. Are you lost]?" asked {wise}. +wise
[Then|Suddenly], there was a light. It was {wise.first} with a lamp. "[Who is there? Are you lost|Don't be afraid. Are you lost|Are you lost]?" asked {wise}. +wise
Then {hero} had an idea. {Hero.he} [looked for the footprints|listened to the river|climbed a tree to look around|looked for the bright star above the house]. +self

"Yes," said {hero}. "[Can you help us|Can you show us the way|Can you take us home]?" "[Of course|Follow me|Come with me]," said {wise}. @wise duo
"Yes," said {hero}. "[Can you help me|Can you show me the way|Can you take me home]?" "[Of course|Follow me|Come with me]," said {wise}. @wise solo
"[There it is|I know the way now|That way]!" {hero.he} said. [Step by step|Slowly], {hero.he} went on. @self solo
"[There it is|I know the way now|This way]!" {hero.he} said. They went on [step by step|slowly|hand in hand]. @self duo

They walked past [a river|a big rock|three tall trees] and over [a bridge|a hill|a field]. Then {hero} saw the lights of home. @duo
{Hero.he} went past [a river|a big rock|three tall trees] and over [a bridge|a hill|a field]. Then {hero.he} saw the lights of home. @solo
Soon there was [smoke from a chimney|a light in the window|the smell of soup]. "I am home!" cried {hero}. @solo

{Grown} was waiting at the door. "[I was so worried!|Where have you been?|There you are!]" {grown.he} said and gave {hero.him} a [big|long|warm] hug.
{Grown} ran to {hero.him} and [hugged|kissed] {hero.him}. "I am so glad that you are back," {grown.he} said.

?
<moral>
<moral>
<moral>
{Hero} ate a [big|hot] bowl of soup and went to bed.
"[Next time, I will stay close|I will never go so far again]," said {hero}.
