# Someone does not want to share, then does.
cast: duo
lesson: [sharing makes everything taste better|a thing is more fun when you share it|there is always enough for two|sharing is a way to say I like you]

<duo-here> {Hero} had {food.a} for lunch. {Friend} had [nothing|forgotten {friend.his} lunch|only a small nut].  +it=food
<duo-here> {Hero} had {toy.a}. It was [new|shiny|a gift from {grown}]. {Friend} wanted to play with it too. +it=toy
<duo-here> They found {food.a} {spot}. But there was only one! +it=food
<duo-here> {Hero} had {hero.his} new {toy.bare} with {hero.him}. {Friend} looked at the {toy.bare}. "[It is so pretty|How nice|Wow]!" said {friend}. +it=toy

"[May I have some|Can you share with me|Will you share it with me|Can I try]?" asked {friend}. "No," said {hero}. "It is [mine|all mine|only for me]!"
"It is mine!" said {hero}. "[I want it|I saw it first|You can't have it]." 
{Friend} asked for [a turn|a little bit|just a bit]. But {hero} [shook {hero.his} head|turned away|said no]. "This {it.bare} is mine," {hero.he} said.

{Friend} was <sad>. {Friend.he} [walked away|sat down {spot2}|did not say a word|looked at the ground].
A tear ran down {friend}'s face. {Friend.he} [went away|sat down {spot2}].
"[Oh|All right|I see]," said {friend}. {Friend.he} [went to play alone|walked away slowly|sat down {spot2}].

--
{Hero} was alone now. [It was not fun anymore|It was very quiet|{Hero.he} did not feel good]. {Hero.he} looked at the {it.bare}. Then {hero.he} looked at {friend}.
At first, {hero} was glad. But soon {hero.he} felt [bad|lonely|sad]. [Having everything alone was no fun|The {it.bare} was not so nice without a friend].
{Guide.first} saw it all. "[How would you feel without any|Is it more fun to be alone|What is better, {it.a} or a friend]?" asked {guide}. {Hero} thought about it.
Then {hero} remembered [how {friend} once helped {hero.him}|that {friend} always shared with {hero.him}|how kind {friend} was].

{Hero} [went|ran|walked] to {friend}. "I am sorry," {hero.he} said. "[Let us share|You can have half|We can share the {it.bare}]."
"{Friend.call}, wait!" called {hero}. "I was not nice. [Please share it with me|Half of it is for you|Let us share it]."
So {hero} [sat down next to {friend}|went to {friend}|came back]. "[Here|This is for you|Please take it]," {hero.he} said. "I want to share with you."

{Friend} [smiled|was <happy>|began to smile]. "Thank you!" {friend.he} said. "[You are a good friend|That is very kind|Next time, I will share with you]."
"Really?" asked {friend}. "Really!" said {hero}. They [sat in the sun|hugged|laughed] and shared the {it.bare}.
"Thank you, {hero.call}," said {friend}. They shared the {it.bare} and [laughed|talked|sang] all [day|afternoon].

?
It was [the best day ever|much more fun together|a very good day].
<moral>
<moral>
<moral>
The next day, {friend} brought {food2.a}. {Friend.he} gave the bigger half to {hero}.
From then on, they shared everything.
